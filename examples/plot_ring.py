"""
A ring
======

To come.
"""

import fastsaddle as fs

print(fs.topology.ring(4).W)

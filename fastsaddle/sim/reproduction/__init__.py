"""Tables that were committed, made anew and held against themselves."""

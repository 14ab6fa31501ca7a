"""How agents exchange models: all in one process (stacked); agents over ranks keep the same contract."""

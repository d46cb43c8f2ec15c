"""The command `interp`: words and tables around the library; no mathematics."""

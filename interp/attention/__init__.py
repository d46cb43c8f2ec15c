"""The one hook into attention: row blocks, readers, editors, sessions. Knows torch modules, not `interp.Model`."""

"""Loading models, probing that the hook is faithful and live on them, and the TransformerLens view."""

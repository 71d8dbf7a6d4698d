"""Plain torch networks and their weights; nothing here imports mmengine."""

"""The trained classifier: how it is served, and the folder that it is loaded from."""

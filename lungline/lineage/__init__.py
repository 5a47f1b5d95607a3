"""The loader of models registered by version 0.1; see `flavour`."""

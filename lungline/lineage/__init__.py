"""Where models of the first version look for their loader; see `flavour`."""

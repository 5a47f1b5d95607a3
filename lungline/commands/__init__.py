"""The commands, a module for each thing that people do; `lungline.cli` joins them."""

"""How an unsure image loses whatever tells who was X-rayed, on its way to the research bucket."""

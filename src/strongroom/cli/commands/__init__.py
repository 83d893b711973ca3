"""One module for each group of commands; each is loaded when its command is used."""

"""One module per capability, and what loads them."""

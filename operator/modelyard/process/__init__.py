"""What every process of ours does alike, the model server too: its command line, its log, and what the system leaves to it."""

"""What a run shows while it goes on: phases and numbers, in lines that move or that stay."""

"""What the people of a municipality ask of their agent, and how it answers them."""

"""How the municipalities' updates become one model: Flower's strategies behind one registry and one adapter."""

"""Jobs over archived files: handed in, claimed by workers, masked piece by piece, delivered."""

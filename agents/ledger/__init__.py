"""What became of every frame, in logs that cannot be rewritten unseen: one per camera, signed as it grows."""

"""One person's pictures: who asked for them and why, who approved, and the clip that was made."""

"""CenterFace, the default face detector. Written next."""

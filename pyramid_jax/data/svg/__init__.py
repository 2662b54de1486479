"""Documents of SVG, checked and written anew for a renderer."""

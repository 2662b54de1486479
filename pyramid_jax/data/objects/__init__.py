"""Images with labelled boxes and relations between them."""

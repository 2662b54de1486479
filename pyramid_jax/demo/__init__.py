"""The demo: a page on which requests are drawn and typed, and images come back.

`canvas`, `controls` and `form` turn what a browser sends into a `Request`,
`examples` fills the page, `making` samples, `png` and `cards` show; none of
them needs gradio. `page` builds the page with it, `server` serves it.
"""

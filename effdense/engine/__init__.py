"""The only room that knows mmengine: config loading, runners, hooks and thin shells around the plain-torch rooms.

Everything mmengine 0.10.7 gets wrong on today's torch is dealt with here (``docs/engine.md`` lists it); when mmengine
goes away, only this package changes.
"""

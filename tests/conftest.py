from hypothesis import settings

# Cores may be shared: how long one example takes says nothing.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

"""What executors of TFX are given."""


def artifact(cls, path, **properties):
    """An input or output of one artifact, which lies at `path`; properties are custom strings."""
    instance = cls()
    instance.uri = str(path)
    for name, value in properties.items():
        instance.set_string_custom_property(name, value)
    return [instance]

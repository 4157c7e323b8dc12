"""Every setting, with its meaning and its default: one frozen model per process, in sections.

`load()` reads all sources once per process, and the result is passed down as an argument. Nothing else reads settings from the environment, except
`JAVA_HOME` and the variables of a launcher of several processes, which are read where they are used.
"""

from infra.settings.loading import Settings, load

__all__ = ["Settings", "load"]

"""Every setting, with its meaning and its default: one frozen model per process, in sections.

`load()` reads all sources once per process, and the result is passed down as an argument. Nothing else reads settings from the environment, except
`JAVA_HOME` and the variables of a launcher of several processes, which are read where they are used.
"""

from infra.settings.loading import USUAL_NAMES, Settings, load
from infra.settings.models import BaseModelSettings, EngineKind, ReflectionSettings, TeacherKind, TeacherSettings
from infra.settings.process import StackSettings, TelemetrySettings
from infra.settings.promotion import PromotionSettings, QualitySettings, RegistrySettings
from infra.settings.section import Section
from infra.settings.stream import (
    DeliveryMode,
    EmbedderSettings,
    IndexSettings,
    KafkaSettings,
    KeyOrder,
    RetrievalSettings,
    StreamsSettings,
    WorkersSettings,
)
from infra.settings.training import LoraSettings, RlSettings, SftSettings, TrainerSettings

__all__ = [
    "USUAL_NAMES",
    "BaseModelSettings",
    "DeliveryMode",
    "EmbedderSettings",
    "EngineKind",
    "IndexSettings",
    "KafkaSettings",
    "KeyOrder",
    "LoraSettings",
    "PromotionSettings",
    "QualitySettings",
    "ReflectionSettings",
    "RegistrySettings",
    "RetrievalSettings",
    "RlSettings",
    "Section",
    "Settings",
    "SftSettings",
    "StackSettings",
    "StreamsSettings",
    "TeacherKind",
    "TeacherSettings",
    "TelemetrySettings",
    "TrainerSettings",
    "WorkersSettings",
    "load",
]

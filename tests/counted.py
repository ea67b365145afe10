"""A backbone that says when it is built, for configs to import."""

from typing import Any

from mmsparse.models import DynamicConvNeXt
from mmsparse.registry import MODELS


@MODELS.register_module()
class CountedConvNeXt(DynamicConvNeXt):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        print(f"built a {type(self).__name__}")

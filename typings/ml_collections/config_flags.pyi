from typing import Any

def DEFINE_config_file(
    name: str, default: str | None = ..., help_string: str = ..., **keywords: Any
) -> Any: ...

"""The settings of the whole cluster over HTTP."""

from noctule.base.errors import RequestError
from noctule.core.meta.operations import ChangeSettings
from noctule.core.meta.settings import SettingValue
from noctule.servers.http_route import Answer, Call, json_answer, load_body


async def get_settings(call: Call) -> Answer:
    """All of them, as far as they are known here."""
    return json_answer(call.node.cluster.meta.settings)


async def patch_settings(call: Call) -> Answer:
    """Change those that the body names, all or none. What is wrong with any of them is told of all."""
    values = load_body(call, dict[str, SettingValue])
    if not values:
        raise RequestError("body: name at least one setting; GET /api/settings lists them")
    await call.node.cluster.operate(ChangeSettings(values))
    return json_answer(call.node.cluster.meta.settings)

"""Decides whether an endpoint's error is temporary, or concerns this prompt or every prompt: by its codes, then by the status.

The codes are a closed list, in the spellings of OpenAI, Azure, vLLM, LiteLLM, OpenRouter, Groq, Anthropic, Google and a few others. Letter case,
underscores, dots and hyphens do not matter. An unknown code decides nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.drafts import FailureCause


class Meaning(StrEnum):
    """What the caller should do."""

    RETRY = "retry"  # the same request may succeed later
    PROMPT = "prompt"  # this prompt never gets an answer, others may
    EVERY_PROMPT = "every_prompt"  # no prompt gets an answer until someone changes a setting, a key or the account


@dataclass(frozen=True)
class EndpointError:
    """An error object, bounded and cleaned. `codes` are all its codes and types, `code` is the first of them. `status` is one inside the body, or 0."""

    codes: frozenset[str] = frozenset()
    code: str = ""
    param: str = ""
    message: str = field(default="", repr=False)
    status: int = 0
    is_flagged: bool = False  # a moderation flagged the prompt


def _plain_code(code: str) -> str:
    return re.sub(r"[\W_]", "", code).lower()


_CODES = {
    FailureCause.FILTERED: """content_filter content_filtered content_policy_violation responsible_ai_policy_violation invalid_prompt moderation_blocked
        data_inspection_failed prompt_blocked""",
    FailureCause.PROMPT_TOO_LONG: """context_length_exceeded context_window_exceeded context_window_exceeded_error string_above_max_length string_too_long
        prompt_too_long request_too_large tokens_limit_reached exceed_context_size_error""",
    FailureCause.WRONG_KEY: """invalid_api_key incorrect_api_key incorrect_api_key_provided api_key_invalid missing_api_key no_api_key expired_api_key
        invalid_authentication invalid_authentication_error authentication_error auth_error unauthorized unauthenticated invalid_token token_expired
        account_deactivated invalid_organization""",
    FailureCause.NO_CREDIT: """insufficient_quota billing_hard_limit_reached billing_not_active billing_error credit_balance_exhausted credit_balance_too_low
        insufficient_balance insufficient_credits insufficient_user_quota payment_required quota_exceeded exceeded_current_quota_error budget_exceeded
        arrearage""",
    FailureCause.WRONG_MODEL: """model_not_found model_not_found_error deployment_not_found unknown_model invalid_model unsupported_model no_such_model
        model_not_supported model_not_available unavailable_model model_not_active model_decommissioned model_deprecated model_terms_required""",
    FailureCause.WRONG_PARAMETER: "unsupported_parameter unknown_parameter unsupported_value unrecognized_request_argument extra_forbidden",
    FailureCause.NOT_ALLOWED: """permission_denied permission_denied_error permission_error access_denied forbidden insufficient_permissions
        access_terminated_error key_model_access_denied team_model_access_denied model_access_denied unsupported_country_region_territory""",
}
#: In this order: an error may have a code and a type.
_CAUSES = {cause: {_plain_code(code) for code in codes.split()} for cause, codes in _CODES.items()}
_TEMPORARY_CODES = {
    FailureCause.RATE_LIMITED: "rate_limit_exceeded rate_limit_error too_many_requests throttling throttling_exception resource_exhausted",
    FailureCause.SERVER_ERROR: "overloaded overloaded_error server_overloaded engine_overloaded model_loading model_not_ready model_not_loaded",
}
#: With one of these codes the request is retried, whatever the status.
_TEMPORARY = {cause: {_plain_code(code) for code in codes.split()} for cause, codes in _TEMPORARY_CODES.items()}
_OF_THE_PROMPT = {FailureCause.FILTERED, FailureCause.PROMPT_TOO_LONG}
_STATUSES = {
    401: FailureCause.WRONG_KEY,
    402: FailureCause.NO_CREDIT,
    403: FailureCause.NOT_ALLOWED,
    **dict.fromkeys((*range(300, 400), 404, 405, 406, 407, 410, 415, 421, 426), FailureCause.WRONG_URL),
}
_TEMPORARY_STATUSES = (408, 409, 424, 425, 429, 498, 499)
_TOO_LONG_STATUSES = (413, 414)
_PARAMETER = re.compile(
    r"(?:Unsupported (?:parameter|value)|Unknown parameter|Invalid parameter): '([\w.\[\]]{1,64})'|Unrecognized request arguments? supplied: (\w{1,64})"
    r"|(?:litellm\.)?UnsupportedParamsError: [\w./-]{1,64} does not support parameters: [\[{]'(\w{1,64})'"
)


def meaning_of(status: int, error: EndpointError) -> tuple[Meaning, FailureCause]:
    codes = {_plain_code(code) for code in error.codes}
    cause = FailureCause.FILTERED if error.is_flagged else next((cause for cause, known in _CAUSES.items() if codes & known), None)
    if cause is None and refused_parameter(error):
        cause = FailureCause.WRONG_PARAMETER
    if cause is not None:
        return Meaning.PROMPT if cause in _OF_THE_PROMPT else Meaning.EVERY_PROMPT, cause
    if status not in _TOO_LONG_STATUSES and (cause := next((cause for cause, known in _TEMPORARY.items() if codes & known), None)):
        return Meaning.RETRY, cause
    message = error.message.lower()
    if status in _STATUSES:
        cause = _STATUSES[status]
        names_model = status == 404 and ("model" in message or "deployment" in message)
        return Meaning.EVERY_PROMPT, FailureCause.WRONG_MODEL if names_model else cause
    if status in _TEMPORARY_STATUSES or not 400 <= status < 500:
        return Meaning.RETRY, FailureCause.RATE_LIMITED if status == 429 else FailureCause.SERVER_ERROR
    is_long = status in _TOO_LONG_STATUSES or "context length" in message
    return Meaning.PROMPT, FailureCause.PROMPT_TOO_LONG if is_long else FailureCause.PROMPT_REFUSED


def refused_parameter(error: EndpointError) -> str:
    """The field of the request that the endpoint refuses, or "".

    It is `param` if a code says that a parameter is refused. Otherwise it comes from a message that begins as those of OpenAI or LiteLLM do: other messages
    are not searched, because they may quote the prompt.
    """
    codes = {_plain_code(code) for code in error.codes}
    name = ""
    if codes & _CAUSES[FailureCause.WRONG_PARAMETER] or error.param.startswith("response_format"):
        name = error.param
    if not name and (match := _PARAMETER.match(error.message)) is not None:
        name = next(filter(None, match.groups()))
    return re.split(r"[.\[]", name)[0]

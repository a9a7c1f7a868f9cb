"""What the errors of obstore mean, in one sentence each."""

import re

from featcache.errors import BucketError, DeniedError, UnsteadyError


class PassingError(Exception):
    """An answer that asks to try again."""


_STATUS = re.compile(r"status code: (\d{3})|\b(\d{3}) [A-Z][a-z]+")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_DENIED_CODES = {"AccessDenied", "AllAccessDisabled", "InvalidObjectState"}  # others are of wrong or old credentials
_PASSING_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted"}
_PASSING_CODES |= {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}


def sentence(error: Exception) -> str:
    """What an error of obstore says, without the long form of its cause."""
    return " ".join(str(error).partition("Debug source")[0].split())


def _status(text: str) -> int:
    match = _STATUS.search(text)
    return int(match[1] or match[2]) if match else 0


def _code(text: str) -> str:
    match = _CODE.search(text)
    return match[1] if match else ""


def _asks_for_credentials(text: str) -> bool:
    return "169.254." in text or "token request" in text or "metadata.google" in text


def is_unreachable(error: Exception) -> bool:
    """Whether nothing has answered."""
    return "error sending request" in sentence(error)


def is_beyond(error: Exception) -> bool:
    """Whether the object ends before the bytes that were asked for."""
    return _status(sentence(error)) == 416


def may_pass(error: Exception) -> bool:
    """Whether another attempt may do better."""
    text = sentence(error)
    if isinstance(error, PassingError):
        return True
    if isinstance(error, (ValueError, TypeError)) or _asks_for_credentials(text):
        return False
    status = _status(text)
    if status:
        return status >= 500 or status in {408, 429} or _code(text) in _PASSING_CODES
    return "HTTP error" in text or "error decoding response body" in text or "timed out" in text


def check_bucket(error: Exception, url: str) -> None:
    """Raise the error for a bucket that is not there, if that is what an error of obstore says."""
    if _code(sentence(error)) in {"NoSuchBucket", "ContainerNotFound"}:
        raise no_bucket(url) from error


def no_bucket(url: str) -> BucketError:
    """The error for a bucket that is not there."""
    bucket = url.split("/")[2]
    return BucketError(f"there is no bucket {bucket!r} (of {url}); make it, or check name, endpoint and region")


def explained(error: Exception, url: str) -> BucketError:
    """One sentence for an error of obstore."""
    text = sentence(error)
    status, code = _status(text), _code(text)
    because = f" ({code})" if code else f" ({status})" if status else ""
    if _asks_for_credentials(text):
        return BucketError(
            f"there are no credentials for {url}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or GOOGLE_…, "
            "AZURE_…), or run on a machine with a role"
        )
    if code in {"NoSuchBucket", "ContainerNotFound"}:
        return no_bucket(url)
    if code in {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"} or (
        status in {301, 307} or "redirect" in text
    ):
        return BucketError(f"{url} is in another region{because}; set AWS_REGION to the region of the bucket")
    if status == 403 and code in _DENIED_CODES:
        return DeniedError(f"{url} refuses access{because}; see that these credentials may list, read and write there")
    if status in {401, 403} or type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"}:
        return BucketError(
            f"{url} refuses access{because}; check the credentials, and that they may list, read and write there"
        )
    if is_unreachable(error):
        return BucketError(f"{url} cannot be reached; check the network, and AWS_ENDPOINT_URL if it is set")
    if status == 429 or code in _PASSING_CODES or status >= 500:
        return UnsteadyError(f"{url} keeps answering with errors{because}; wait, then run the same command again")
    if may_pass(error):
        return UnsteadyError(f"{url} keeps breaking off ({text[:200]}); wait, then run the same command again")
    if "invalid path" in text:
        return BucketError(f"{url} cannot be listed ({text[:200]}); give that object another name")
    return BucketError(f"{url} gave an error ({text[:200]}); run the same command again")

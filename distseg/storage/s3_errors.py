"""What S3 and boto3 say went wrong, as one line with the remedy, and whether trying again can help."""

from typing import Any, NamedTuple
from urllib.parse import urlsplit

from distseg.errors import masked


class Problem(NamedTuple):
    """Why a call failed, and whether trying again can help."""

    text: str
    may_pass: bool
    renews: bool = False  # a client that is made anew may have better credentials


_ANSWERS = {
    "InvalidAccessKeyId": "{server} does not know the key id; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "wrong credentials for {server}; AWS_SECRET_ACCESS_KEY does not belong to the key id",
    "ExpiredToken": "the session token has expired; renew AWS_SESSION_TOKEN",
    "InvalidToken": "the session token is not valid; renew or unset AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clocks of this machine and {server} differ; set this machine's clock",
    "AccessDenied": "access denied by {server}; use other credentials, or ask for the right to do this here",
    "NoSuchBucket": "no such bucket at {server}; create it, or check the name and AWS_ENDPOINT_URL",
    "NoSuchKey": "no such key in the bucket",
    "InvalidBucketName": "not a valid bucket name; use 3 to 63 lower-case letters, digits, '-' and '.'",
    "PreconditionFailed": "changed while it was being read; read it again once nobody writes to it",
    "EntityTooLarge": "too large for {server}, or for a proxy before it; raise its limit",
    "QuotaExceeded": "the storage quota at {server} is used up; delete something or ask for more",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION to it",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_DEFAULT_REGION to it",
}
_STATUSES = {  # some answers carry a bare status for a code
    "301": "PermanentRedirect",
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "412": "PreconditionFailed",
    "413": "EntityTooLarge",
    "416": "InvalidRange",
}
_THROTTLING = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout"}
_ROLES = ("AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials", "CreateToken")
_PASSING_STATUSES = (408, 429)  # whatever the server calls them


def server_of(url: str) -> str:
    """Of an address only what names the server: no user, no path, no query."""
    try:
        address = urlsplit(url)
    except ValueError:
        return ""
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}" if address.netloc else ""


def redirected(server: str, location: str) -> str:
    """What an answer means that sends the client elsewhere, as a page of login or a proxy that wants https does."""
    return (
        f"{server} sends requests on to {server_of(location) or 'another page'}; set AWS_ENDPOINT_URL to the address "
        "of the S3 server itself"
    )


def code(error: Any) -> str:
    """The S3 code of a ClientError."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return _STATUSES.get(code, code)


def diagnose(error: Exception, server: str) -> Problem:
    """Of a ClientError or BotoCoreError. `server` is named in the text."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    if isinstance(error, exceptions.ClientError):
        return _diagnose_role(error) if is_of_credentials(error) else _diagnose_answer(error, server)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        text = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return Problem(text, False, renews=True)  # boto3 would not look for them again
    if isinstance(error, exceptions.CredentialRetrievalError):
        return Problem(f"no credentials: {_in_a_line(error)}; correct what AWS_PROFILE or the role names", True, True)
    if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError):
        return Problem(f"no credentials: {_in_a_line(error)}; log in by: aws sso login", False, renews=True)
    if isinstance(error, exceptions.ParamValidationError) and "bucket" in str(error):
        return Problem(_ANSWERS["InvalidBucketName"], False)
    if isinstance(error, exceptions.IncompleteReadError | exceptions.ResponseStreamingError | HTTPError):
        return Problem(f"{server} broke the connection before the end of the file", True)
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return _diagnose_connection(error, server)
    return Problem(unusable(error), False)


def unusable(error: Exception) -> str:
    return f"the AWS settings cannot be used: {_in_a_line(error)}"


def _in_a_line(error: Exception | str) -> str:
    return masked(" ".join(str(error).split()))


def _diagnose_connection(error: Any, server: str) -> Problem:
    from botocore import exceptions

    text, reason = str(error), _reason(error)
    asked = server_of(str(error.kwargs.get("endpoint_url"))) or server
    if isinstance(error, exceptions.ProxyConnectionError):
        proxy = server_of(str(error.kwargs.get("proxy_url"))) or "of HTTP_PROXY or HTTPS_PROXY"
        name = urlsplit(server).hostname
        return Problem(
            f"cannot reach the proxy {proxy} ({reason}); correct HTTPS_PROXY or HTTP_PROXY, or add {name} to NO_PROXY",
            True,
        )
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return Problem(f"the certificate of {asked} is not trusted; set AWS_CA_BUNDLE to its authority", False)
    if isinstance(error, exceptions.SSLError) and ("No such file" in text or "NO_CERTIFICATE" in text):
        return Problem("AWS_CA_BUNDLE (else REQUESTS_CA_BUNDLE) names no file of certificates; correct it", False)
    if isinstance(error, exceptions.SSLError) and "WRONG_VERSION_NUMBER" in text:
        return Problem(f"{asked} does not answer in TLS; give AWS_ENDPOINT_URL with http://", False)
    if "Invalid header value" in text:
        return Problem("the key id or session token holds an end of line; set AWS_ACCESS_KEY_ID without", False)
    if not f".{asked.partition('://')[2]}".endswith(f".{server.partition('://')[2]}"):  # as the server of a role
        text = (
            f"cannot reach {asked} ({reason}), which is asked on the way to {server}; does the network let it through?"
        )
        return Problem(text, True)
    return Problem(f"cannot reach {server} ({reason}); is it running, is AWS_ENDPOINT_URL right?", True)


def is_of_credentials(error: Any) -> bool:
    """Whether a ClientError is no answer of S3, but of the server that gives a role its credentials."""
    return getattr(error, "operation_name", "") in _ROLES


def _diagnose_role(error: Any) -> Problem:
    status, reason = _status(error), code(error)
    said = _in_a_line(error.response.get("Error", {}).get("Message") or "no reason given")
    text = f"no credentials: {error.operation_name} answered {reason or status} ({said}); check the role and its token"
    renews = reason.startswith("Expired")
    may_pass = renews or status >= 500 or status in _PASSING_STATUSES or reason in _THROTTLING
    return Problem(f"{text} (AWS_PROFILE, AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE)", may_pass, renews)


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _diagnose_answer(error: Any, server: str) -> Problem:
    status, reason = _status(error), code(error)
    reason = reason or _STATUSES.get(str(status), "")
    if reason == "NoSuchKey" and error.response.get("Error", {}).get("Code") != reason:  # a bare 404
        return Problem(f"not found; is the name right, and is {server} (AWS_ENDPOINT_URL) an S3 server?", False)
    if reason in _ANSWERS:
        renews = reason == "ExpiredToken"
        return Problem(_ANSWERS[reason].format(server=server), renews, renews)
    may_pass = (status >= 500 and status != 501) or status in _PASSING_STATUSES or reason in _THROTTLING
    if not may_pass and (not reason or reason.isdigit()):
        return Problem(f"{server} answered {status}, and not as S3 does; is AWS_ENDPOINT_URL right?", False)
    said = error.response.get("Error", {}).get("Message") or "no reason given"
    return Problem(f"{server} answered {reason or status} ({said})", may_pass)


def _reason(error: Exception) -> str:
    text = str(getattr(error, "kwargs", {}).get("error", error))
    known = {
        "refused": "connection refused",
        "not known": "unknown host name",
        "No address": "unknown host name",
        "resol": "unknown host name",
        "timed out": "timed out",
        "unreachable": "network unreachable",
        "No route": "no route to the host",
    }
    return next((meaning for sign, meaning in known.items() if sign in text), "connection broken")

"""What an object store's errors mean: which are worth another try, and one line for each of the others."""

import re
from collections.abc import Mapping

STATUS = re.compile(r"non-2xx status code: (\d{3})")
CODE = re.compile(r"<Code>(\w+)</Code>")
KIND = re.compile(r"kind: (Connect|Timeout|Request|Decode|Interrupted)\b")
KINDS = {
    "Connect": "the connection was refused or there is no way to the host",
    "Timeout": "it took too long to answer",
    "Request": "the connection was cut",
    "Decode": "the connection was cut",
    "Interrupted": "the connection was cut",
}
METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
VARIABLES: Mapping[str, str] = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
ENDPOINTS: Mapping[str, str] = {
    "s3": "AWS_ENDPOINT_URL and AWS_REGION",
    "gs": "the network",
    "az": "AZURE_STORAGE_ENDPOINT",
}


def is_passing(text: str) -> bool:
    """Whether the same request may succeed in a moment: nothing the store has decided, and no lack of credentials."""
    found = STATUS.search(text)
    if any(host in text for host in METADATA_HOSTS) or "must be specified" in text:
        return False
    return found is None or int(found[1]) >= 500 or int(found[1]) in (408, 429)


def is_unknown(text: str) -> bool:
    """Whether the store does not know this kind of request."""
    found = STATUS.search(text)
    return found is not None and found[1] == "501"


def has_no_bucket(text: str) -> bool:
    return "NoSuchBucket" in text or "ContainerNotFound" in text or "The specified bucket does not exist" in text


def reason_of(text: str) -> str:
    """Why, in a few words; never the URL of the request, which may be signed."""
    if status := STATUS.search(text):
        code = CODE.search(text)
        return f"status {status[1]}{f' {code[1]}' if code else ''}"
    if kind := KIND.search(text):
        return KINDS[kind[1]]
    return "the connection was cut"


def line_of(name: str, doing: str, text: str, num_tries: int) -> str:
    """The one line for a request that came to nothing. `name` is what was asked for, `doing` such as "written"."""
    scheme = name.partition(":")[0]
    if has_no_bucket(text):
        bucket = "/".join(name.split("/")[:3])
        return f"{bucket}: there is no such bucket; make it, or correct path under [cache] in mtl.toml"
    if any(host in text for host in METADATA_HOSTS) or "must be specified" in text:
        return f"{name}: cannot be {doing}: no credentials in the environment; set {VARIABLES[scheme]}"
    if not is_passing(text):
        return (
            f"{name}: may not be {doing} ({reason_of(text)}); check {VARIABLES[scheme]} in the environment, what they "
            f"allow, and {ENDPOINTS[scheme]}"
        )
    return (
        f"{name}: could not be {doing} in {num_tries} tries: {reason_of(text)}; check {ENDPOINTS[scheme]}, then run "
        "the same command again, finished work is kept"
    )

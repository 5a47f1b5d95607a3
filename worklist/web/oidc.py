"""Sign-in with an OpenID provider: the code flow with PKCE, and roles from a claim."""

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware.sessions import SessionMiddleware

from lungline.errors import SettingsError, Unavailable
from lungline.settings import Settings, WorklistSettings
from worklist.database.access import Role, secret_for
from worklist.web.context import Context, Forbidden
from worklist.web.sign_in import welcome

COOKIE = "lungline_worklist_oidc"
_MINUTES = 10
SESSION_HOURS = 8.0
"""A shift: groups are read when somebody signs in, so a role lasts no longer than this without the provider."""
_LONGEST_IDENTITY = 120


class ProviderUnavailable(Unavailable):
    """The OpenID provider does not answer."""


def install(app: FastAPI, settings: Settings, client: Any) -> None:
    """Add the two routes of the code flow; `client` as from `client_of`."""
    router = APIRouter()

    @router.get("/login/oidc")
    async def begin(request: Request, context: Context) -> Response:
        """Redirect to the provider."""
        back = f"{(context.settings.worklist.uri or str(request.base_url)).rstrip('/')}/login/callback"
        with _translated():
            return await client.authorize_redirect(request, back)

    @router.get("/login/callback")
    async def end(request: Request, context: Context) -> Response:
        """Accept the provider's callback."""
        with _translated():
            token = await client.authorize_access_token(request)
        claims: Mapping[str, Any] = token.get("userinfo") or {}
        role = role_of(claims, context.settings.worklist)
        if role is None:
            raise Forbidden("Your account has no access to this worklist.")
        patients = may_see_patients(claims, context.settings.worklist)
        begin_session = partial(context.access.begin, person_of(claims), role, SESSION_HOURS, patients=patients)
        return welcome(context, await run_in_threadpool(begin_session))

    app.include_router(router)
    https = (settings.worklist.uri or "").startswith("https://")
    # Holds only the state and nonce of a sign-in, while the user is at the provider.
    app.add_middleware(
        SessionMiddleware,
        secret_key=secret_for(settings, "oidc"),
        session_cookie=COOKIE,
        max_age=_MINUTES * 60,
        https_only=https,
    )


def person_of(claims: Mapping[str, Any]) -> str:
    """Who a user is: issuer and subject, which nobody can choose, behind the name that they go by.

    Names are for people to read. At many providers users change them, and two may have the same.
    """
    name = str(claims.get("preferred_username") or claims.get("email") or claims.get("name") or "")
    subject, issuer = str(claims["sub"]), str(claims.get("iss", ""))
    if len(subject) + len(issuer) > _LONGEST_IDENTITY:
        subject, issuer = hashlib.sha256(f"{issuer} {subject}".encode()).hexdigest(), urlsplit(issuer).netloc[:60]
    return f"{name[: 190 - len(subject) - len(issuer)]} ({subject} at {issuer})".strip()


def role_of(claims: Mapping[str, Any], settings: WorklistSettings) -> Role | None:
    """The role of a user's groups; None when they have no access."""
    groups = _groups(claims, settings)
    if settings.oidc_admin_group and settings.oidc_admin_group in groups:
        return "admin"
    if settings.oidc_reader_group is None or settings.oidc_reader_group in groups:
        return "reader"
    return None


def may_see_patients(claims: Mapping[str, Any], settings: WorklistSettings) -> bool:
    """Whether a user's groups give the right to see whom X-rays are of."""
    return settings.oidc_patients_group is not None and settings.oidc_patients_group in _groups(claims, settings)


def _groups(claims: Mapping[str, Any], settings: WorklistSettings) -> set[str]:
    claim = claims.get(settings.oidc_role_claim) or []
    return {claim} if isinstance(claim, str) else {str(group) for group in claim}


def client_of(settings: WorklistSettings) -> Any:
    """The provider's client. Raises SettingsError when the provider is not fully configured."""
    from authlib.integrations.starlette_client import OAuth

    if not (settings.oidc_issuer and settings.oidc_client_id and settings.oidc_client_secret):
        raise SettingsError("OpenID sign-in needs worklist.oidc_issuer, oidc_client_id and oidc_client_secret.")
    oauth = OAuth()
    return oauth.register(
        name="provider",
        server_metadata_url=f"{settings.oidc_issuer.rstrip('/')}/.well-known/openid-configuration",
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret.get_secret_value(),
        client_kwargs={"scope": "openid profile email", "code_challenge_method": "S256", "timeout": 10},
    )


@contextmanager
def _translated() -> Generator[None]:
    from authlib.common.errors import AuthlibBaseError
    from httpx2 import HTTPError
    from joserfc.errors import JoseError

    try:
        yield
    except HTTPError as exc:
        raise ProviderUnavailable("The OpenID provider does not answer; try again later.") from exc
    except (AuthlibBaseError, JoseError) as exc:
        raise Forbidden("The OpenID provider refused the sign-in, or it took too long.") from exc

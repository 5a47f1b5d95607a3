"""Signing in at an OpenID provider: the code flow with PKCE, and roles from a claim."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

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


class ProviderUnavailable(Unavailable):
    """The OpenID provider does not answer."""


def install(app: FastAPI, settings: Settings) -> None:
    """Add the two routes of the code flow. Raises SettingsError for a provider that is not fully named."""
    client = _client(settings.worklist)
    router = APIRouter()

    @router.get("/login/oidc")
    async def begin(request: Request, here: Context) -> Response:
        """To the provider."""
        back = f"{(here.settings.worklist.uri or str(request.base_url)).rstrip('/')}/login/callback"
        with _translated():
            return await client.authorize_redirect(request, back)

    @router.get("/login/callback")
    async def end(request: Request, here: Context) -> Response:
        """Back from the provider."""
        with _translated():
            token = await client.authorize_access_token(request)
        claims: Mapping[str, Any] = token.get("userinfo") or {}
        role = role_of(claims, here.settings.worklist)
        if role is None:
            raise Forbidden("You are known to the provider, but not as a reader of this worklist.")
        who = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])[:200]
        return welcome(here, await run_in_threadpool(here.access.begin, who, role))

    app.include_router(router)
    https = (settings.worklist.uri or "").startswith("https://")
    # Holds what the provider must bring back, for as long as somebody types a password; nothing else.
    app.add_middleware(
        SessionMiddleware,
        secret_key=secret_for(settings, "oidc"),
        session_cookie=COOKIE,
        max_age=_MINUTES * 60,
        https_only=https,
    )


def role_of(claims: Mapping[str, Any], settings: WorklistSettings) -> Role | None:
    """The role that a person's groups give; None when they have none here."""
    claim = claims.get(settings.oidc_role_claim) or []
    groups = {claim} if isinstance(claim, str) else {str(group) for group in claim}
    if settings.oidc_admin_group and settings.oidc_admin_group in groups:
        return "admin"
    if settings.oidc_reader_group is None or settings.oidc_reader_group in groups:
        return "reader"
    return None


def _client(settings: WorklistSettings) -> Any:
    from authlib.integrations.starlette_client import OAuth

    if not (settings.oidc_issuer and settings.oidc_client_id and settings.oidc_client_secret):
        raise SettingsError("Signing in by OpenID needs worklist.oidc_issuer, oidc_client_id and oidc_client_secret.")
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
        raise Forbidden("The OpenID provider did not let you in, or the sign-in took too long.") from exc

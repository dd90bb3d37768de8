"""See before a start that the tables are those of this version."""

from operators.errors import DependencyError
from ops.migrate import MigrationError, pending
from settings import Settings

__all__ = ["require_migrated"]


def require_migrated(settings: Settings) -> None:
    """See that no migration is pending.

    :raises DependencyError: Some are, or it cannot be found out.

    """
    try:
        found = pending(settings.database_url.get_secret_value(), limit=settings.start_timeout)
    except MigrationError as error:
        raise DependencyError(str(error)) from None
    if found:
        msg = (
            f"DATABASE_URL: migrations are pending ({', '.join(found)}): run python -m ops migrate"
        )
        raise DependencyError(msg)

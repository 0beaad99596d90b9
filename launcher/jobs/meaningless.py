"""Arguments of the SDK that mean nothing here: taken, and told apart from mistakes."""

from __future__ import annotations

from launcher.jobs.errors import RunConfigurationException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# What concerns the machines and accounts of a cloud, or the framework of an image.
OF_ESTIMATORS = frozenset(
    (
        *("vm_size", "vm_priority", "use_gpu", "use_docker", "user_managed", "inputs"),
        *("framework_version", "source_directory_data_store", "image_registry_details"),
        *("parameter_server_count", "worker_count"),
        *("_enable_optimized_mode", "_disable_validation", "_show_lint_warnings"),
    )
)
OF_COMPUTE = frozenset(
    (
        *("admin_username", "admin_user_password", "admin_user_ssh_key", "subnet_name", "tags"),
        *("vnet_resourcegroup_name", "vnet_name", "description", "location", "identity_type"),
        *("identity_id", "remote_login_port_public_access", "enable_node_public_ip"),
    )
)


def refuse_unknown(
    what: str, given: Iterable[str], meaningless: frozenset[str], function: Callable[..., Any]
) -> None:
    """Raise for an argument that the SDK never had, with the one that was meant if it is near.

    given: what `function` takes as further arguments; meaningless: those that are no mistake.
    """
    unknown = sorted(set(given) - meaningless)
    if unknown:
        import difflib
        import inspect

        known = [*inspect.signature(function).parameters, *meaningless]
        near = difflib.get_close_matches(unknown[0], known, 1)
        raise RunConfigurationException(
            f"{what} has no argument {', '.join(unknown)}.",
            hint=f"Is {near[0]} meant?" if near else "",
        )

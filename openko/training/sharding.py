"""One table from logical axes to mesh axes. Two logical axes of one array on the same mesh axis is an error."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from openko import attention
from openko.errors import InputError
from openko.profiles import MeshShape, StepConfig

MESH_AXES = ("data", "fsdp", "tensor")

# fsdp cuts every weight along its model width ("embed"), tensor along heads, mlp width and vocabulary; a batch is
# cut along data and fsdp together, for fsdp is data parallelism whose weights happen to be stored in pieces.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "seq": (),
    "layers": (),
    "parts": (),
    "embed": ("fsdp",),
    "embed_replicated": (),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


def partition(axes: tuple[str, ...]) -> PartitionSpec:
    """The mesh axes for an array whose axes are called `axes`; raises on a clash or an unknown name."""
    spec, used = [], set()
    for axis in axes:
        mesh_axes = RULES[axis]
        if used & set(mesh_axes):
            raise ValueError(f"axes {axes}: {axis!r} would use mesh axis {mesh_axes} a second time")
        used |= set(mesh_axes)
        spec.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0] if mesh_axes else None)
    return PartitionSpec(*spec)


def make_mesh(shape: MeshShape, devices=None) -> Mesh:
    """A mesh of exactly the devices asked for, neighbours in the machine neighbours in the mesh."""
    devices = jax.devices() if devices is None else devices
    if len(devices) < shape.devices:
        raise InputError(
            f"mesh data={shape.data} fsdp={shape.fsdp} tensor={shape.tensor} needs {shape.devices} devices, "
            f"found {len(devices)} ({devices[0].platform}): choose the profile of this machine"
        )
    grid = mesh_utils.create_device_mesh((shape.data, shape.fsdp, shape.tensor), devices[: shape.devices], allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES)


def place(mesh: Mesh, axes) -> NamedSharding:
    """Sharding of one array by the names of its axes."""
    return NamedSharding(mesh, partition(axes))


def place_tree(mesh: Mesh, axes_tree, shapes_tree):
    """Shardings for a tree of arrays; names the weight whose axis the mesh does not divide."""

    def one(path, shape, axes):
        sharding = place(mesh, axes)
        for size, name, mesh_axes in zip(shape.shape, axes, sharding.spec, strict=True):
            names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
            parts = int(np.prod([mesh.shape[n] for n in names]))
            if size % parts:
                raise InputError(
                    f"{jax.tree_util.keystr(path)}: axis {name!r} of {size} does not divide over {parts} devices "
                    f"of mesh axis {'×'.join(names)}: change the profile's mesh"
                )
        return sharding

    return jax.tree_util.tree_map_with_path(one, shapes_tree, axes_tree)


def constrainer(mesh: Mesh) -> Callable:
    """(array, axis names) -> the same array, its sharding pinned inside jit."""
    return lambda x, axes: jax.lax.with_sharding_constraint(x, place(mesh, axes))


def attention_for(mesh: Mesh, step: StepConfig) -> Callable:
    """The profile's attention; splash runs chip by chip and so is told the mesh."""
    if step.attention != "splash":
        return attention.implementation(step.attention)
    head_axis = "tensor" if mesh.shape["tensor"] > 1 else None
    return attention.implementation("splash", mesh=mesh, batch_axes=RULES["batch"], head_axis=head_axis)

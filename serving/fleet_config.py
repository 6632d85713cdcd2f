"""What a fleet is: the servers that a pushed model goes to, as `push.fleet` in pipeline.yaml says it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serving.client.addresses import parse_servers
from serving.client.tls import Tls
from serving.errors import ServingError

STABLE, CANARY = "stable", "canary"


class Instance(BaseModel):
    """One server.

    Attributes:
        name: What people call it.
        address: Where it answers gRPC: host:port, or grpc://, grpcs:// or unix: as the client takes them.
        base_path: The model's folder of versions as this machine writes it, a mounted bucket for one; several instances may share
            one. "" is the store's own folder of the model.
        server_path: The same folder as the server calls it, for a reload of its configuration; "" is `base_path`.
        rest: http://host:port of the embedded server with --rest_list_models: before a reload its models are looked at.
        ca, cert, key: PEM files for grpcs:// and https://: whom to trust ("" for the system's authorities), an own certificate.
        other_models: Base paths, by name, of models that it serves beside those of this store. A reload replaces the whole
            configuration, and what is not said would be gone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")
    address: str
    base_path: str = ""
    server_path: str = ""
    rest: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    other_models: dict[str, str] = Field(default_factory=dict)

    @property
    def tls(self) -> Tls | None:
        """The certificates; None where none are named."""
        files = (Path(file) if file else None for file in (self.ca, self.cert, self.key))
        return Tls(*files) if self.ca or self.cert or self.key else None

    @field_validator("address")
    @classmethod
    def _grpc(cls, address: str) -> str:
        if parse_servers(address).rest:
            raise ValueError(f"expected an address of gRPC, which tells of versions and takes labels; got {address}")
        return address

    @field_validator("rest")
    @classmethod
    def _http(cls, rest: str) -> str:
        if rest and not parse_servers(rest).rest:
            raise ValueError(f"expected http://host:port or https://host:port, got {rest}")
        return rest


class CanaryRule(BaseModel):
    """What each instance has to answer before a push counts.

    Attributes:
        examples: How many golden examples are sent, to every signature that they can feed; 0 sends none.
        tolerance: How far a number may be from the expected one: absolute, and relative to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int = Field(default=16, ge=0, le=1000)
    tolerance: float = Field(default=1e-4, ge=0)


class FleetConfig(BaseModel):
    """The servers, and what they have to show.

    Attributes:
        instances: At least one.
        deadline_seconds: In this time every instance has loaded a new version and answered; going back has as long again.
        canary: The requests.
        labels: Whether a push only gets the label "canary", and "stable" stays until `tfline promote`. Then both versions are
            loaded, and the servers' configuration is tfline's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instances: tuple[Instance, ...] = Field(min_length=1)
    deadline_seconds: float = Field(default=120.0, gt=0)
    canary: CanaryRule = CanaryRule()
    labels: bool = False

    @model_validator(mode="after")
    def _each_once(self) -> FleetConfig:
        for what in ("name", "address"):
            values = [getattr(instance, what) for instance in self.instances]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"expected each {what} once, got {', '.join(twice)} more than once")
        return self

    def located(self, store: Path, model: str, path: Callable[[str], str]) -> FleetConfig:
        """The same fleet with every base path filled in.

        Args:
            store: Root of the store.
            model: The model's name.
            path: Makes a configured path absolute.

        Raises:
            ServingError: A base path does not end in the model's name, as a version store's does.
        """
        instances = []
        for instance in self.instances:
            base = Path(path(instance.base_path)) if instance.base_path else store / model
            if base.name != model:
                raise ServingError(
                    f"push.fleet: the base_path of instance {instance.name} has to end in the model's name, as …/{model}; "
                    f"got {instance.base_path}"
                )
            instances.append(instance.model_copy(update={"base_path": str(base)}))
        return self.model_copy(update={"instances": tuple(instances)})

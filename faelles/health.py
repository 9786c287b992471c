"""Answer and ask the standard gRPC health service, on loopback: systemd, Kubernetes and our own `status` probe it.

Source: the gRPC Health Checking Protocol, `grpc.health.v1`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faelles.errors import ConfigError

LOOPBACK = "127.0.0.1"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpcio-health-checking ships no types
    """Serve the health of one process.

    Args:
        port: On loopback; 0 takes a free one.
        healthy: Asked for every probe.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        # Two at a time are plenty, and SO_REUSEPORT would let another process share the port unseen.
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self, self._server)
        try:
            self.port: int = self._server.add_insecure_port(f"{LOOPBACK}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise ConfigError(
                f"health port {port}: expected a free port on loopback, another process has it; choose another",
                da=f"sundhedsporten {port} er optaget af en anden proces; vælg en anden",
            )
        self._server.start()

    def Check(  # the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer one probe; only the whole process has a health, so other services are unknown."""
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=SERVING if self._healthy() else NOT_SERVING)

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(grace=None).wait()


def probe(port: int, timeout_s: float = 2.0) -> bool:
    """Ask whether the process behind a loopback port is healthy; nobody there is a no."""
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == SERVING)

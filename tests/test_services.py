"""What every gRPC tool expects of a server: health checks and reflection."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from coordinator.server import _add_health_and_reflection


def test_health_and_reflection_are_served() -> None:
    async def scenario() -> None:
        server = grpc.aio.server()
        await _add_health_and_reflection(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "tunefarm.v1.Farm", "tunefarm.v1.AgentGateway"):
                request = health_pb2.HealthCheckRequest(service=name)
                answer = await health.Check(request, timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            call = reflection.ServerReflectionInfo(iter([asked]), timeout=10)
            names = {
                service.name
                async for response in call
                for service in response.list_services_response.service
            }
            assert {"tunefarm.v1.Farm", "tunefarm.v1.AgentGateway"} <= names
        await server.stop(None)

    asyncio.run(scenario())

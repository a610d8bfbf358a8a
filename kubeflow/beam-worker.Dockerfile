# syntax=docker/dockerfile:1
# The steps' image as a worker of Beam for Dataflow (--sdk_container_image): what Beam's workers
# import is what the steps import. Flink takes the steps' image as it is (pipeline/flink/pool.py).
#   docker build --file kubeflow/beam-worker.Dockerfile --build-arg IMAGE=steadyrank:0.1.0 .
ARG IMAGE=steadyrank:0.1.0

# Beam's version is that of locks/image.txt.
FROM apache/beam_python3.13_sdk:2.77.0 AS beam

FROM ${IMAGE}
COPY --from=beam /opt/apache/beam /opt/apache/beam
USER 10001:10001
# `boot` writes its options here: any user can, with a read-only root, too.
WORKDIR /tmp
# Otherwise `boot` makes an environment of its own, which lacks the packages of this one.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENTRYPOINT ["/opt/apache/beam/boot"]

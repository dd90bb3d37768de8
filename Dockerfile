# The stream and what people run around it: python -m bytewax.run dataflow, python -m ops ….
# The settings are in README.md; how to run it, in compose.yaml and k8s/.
ARG PYTHON_IMAGE=python:3.12-slim

# Wheels only, so nothing is compiled here either; pip itself stays behind.
FROM ${PYTHON_IMAGE} AS packages
# requirements-tracing.lock for an image that can send traces.
ARG REQUIREMENTS=requirements.lock
COPY requirements.lock requirements-tracing.lock /tmp/
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --only-binary :all: --require-hashes -r "/tmp/${REQUIREMENTS}"

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fraud-scoring-stream" \
      org.opencontainers.image.description="Kafka transactions, scored for fraud, into PostgreSQL" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The number, not the name, is what Kubernetes can check. A new volume at /recovery takes over
# the owner of this folder.
RUN groupadd --gid 10001 fraud \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin fraud \
    && install --directory --owner=10001 --group=10001 /recovery

COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY LICENSE fraud-stream dataflow.py startup.py settings.py settings_types.py ./
COPY operators operators
COPY ops ops
COPY lab lab
COPY telemetry telemetry
COPY migrations migrations
COPY k8s/helm/entrypoint.sh k8s/helm/entrypoint-recovery.sh ./
# The root is read-only when it runs, so what Python would cache is made now.
RUN /opt/venv/bin/python -m compileall -q . \
    && ln -s /app/fraud-stream /opt/venv/bin/fraud-stream

# HTTP_HOST: probes and Prometheus come from outside of the container.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HTTP_HOST=0.0.0.0 \
    HTTP_PORT=8080
USER 10001:10001
EXPOSE 8080

# In Docker alone; Kubernetes has probes of its own. The first start may wait for START_TIMEOUT.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['HTTP_PORT'] + '/health/live', timeout=4)"]

# No shell: signals have to arrive. Make the recovery partitions before: python -m ops.recovery.
ENTRYPOINT ["python", "-m"]
CMD ["ops.supervise", "python", "-m", "bytewax.run", "dataflow", "-r", "/recovery/partitions", "-s", "5", "-b", "0"]

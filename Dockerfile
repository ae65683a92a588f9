# syntax=docker/dockerfile:1
# Two images: `runtime` is jetloom alone, `shop` (the default) has the services of this repository as well.

# Every file is checked against the lock's hashes here; the next stage takes only what jetloom needs to run.
FROM python:3.13-slim AS wheels
WORKDIR /src
COPY requirements.lock ./
RUN pip wheel --quiet --no-deps --require-hashes --wheel-dir /wheels -r requirements.lock
COPY pyproject.toml LICENSE ./
COPY framework ./framework
RUN pip install --quiet --no-index --find-links /wheels hatchling \
    && pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /wheels .

FROM python:3.13-slim AS runtime
RUN useradd --system --uid 10001 --create-home jetloom
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --quiet --no-cache-dir --no-index --find-links /wheels jetloom
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER jetloom
WORKDIR /home/jetloom
ENTRYPOINT ["jetloom"]

FROM runtime AS shop
# A named volume takes its owner from the folder it covers.
USER root
RUN install --directory --owner jetloom /ledger
USER jetloom
COPY --chown=root:root services /app/services
ENV PYTHONPATH=/app
WORKDIR /app

"""A stand-in for the fraud model's API: the contract of the real one, a formula for a model.

For the demo, the tests and the benchmarks. It answers `POST /predict` as the FastAPI service does
that it stands in for, its habits with bad requests included, and it misbehaves on command. The
score is a fixed function of a transaction's id and amount: there is no model in here and nothing
to learn from its scores. Every answer says so in `model_version`.

    python -m lab.model_api --port 8000
    python -m lab.model_api --port 8000 --fault slow,share=0.01,factor=50 --fault status,code=429
"""

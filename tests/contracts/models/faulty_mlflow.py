"""The documented model for MLflow, with faults on demand."""
# mypy: ignore-errors
# mlflow is installed in the server's own environment only.

import mlflow
import pandas as pd
from faults import spoil
from fraud import FraudModel


class FaultyModel(FraudModel):
    """It does what the description of the first transaction says."""

    # As in the documented model.
    def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201
        """Predict, more or less."""
        descriptions = model_input["description"].tolist()
        fault = next(iter(descriptions), "")
        if fault == "raises" or "refused" in descriptions:
            raise RuntimeError(fault)
        answer = super().predict(context, model_input, params)
        names = ["transaction_id", "prediction", "fraud_score"]
        columns = [answer[name].tolist() for name in names]
        spoil(fault, *columns)
        spoilt = pd.DataFrame(dict(zip(names, columns, strict=True)))
        if fault == "no ids":
            return spoilt.drop(columns="transaction_id")
        if fault == "lies":
            return spoilt["fraud_score"]
        return spoilt


mlflow.models.set_model(FaultyModel())

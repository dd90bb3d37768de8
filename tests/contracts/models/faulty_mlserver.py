"""The documented model for MLServer, with faults on demand."""
# mypy: ignore-errors
# mlserver is installed in the server's own environment only.

from faults import spoil
from fraud import FraudModel
from mlserver.errors import InferenceError


class FaultyModel(FraudModel):
    """It does what the description of the first transaction says."""

    async def predict(self, payload):  # noqa: ANN001, ANN201  # as in the documented model
        """Predict, more or less."""
        inputs = {tensor.name: tensor.data.root for tensor in payload.inputs}
        fault = next(iter(inputs["description"]), "")
        if fault == "raises":
            raise RuntimeError(fault)
        if "refused" in inputs["description"]:
            raise InferenceError(fault)
        answer = await super().predict(payload)
        columns = [list(tensor.data.root) for tensor in answer.outputs]
        spoil(fault, *columns)
        for tensor, column in zip(answer.outputs, columns, strict=True):
            tensor.data.root = column
            tensor.shape = [len(column), 1]
        if fault == "no ids":
            del answer.outputs[0]
        if fault == "lies":
            answer.outputs[2].shape = [len(columns[2]) + 1]
        return answer

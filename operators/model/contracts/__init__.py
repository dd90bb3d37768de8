"""How a model server is asked; `ML_API_CONTRACT` names one of `CONTRACTS`.

A contract is one file with a pair of pure functions, one to ask and one to understand the answer.
"""

from typing import Final

from operators.model.contracts.contract import BadAnswerError, Contract
from operators.model.contracts.mlflow import MLFLOW
from operators.model.contracts.native import NATIVE
from operators.model.contracts.oip import OIP

__all__ = ["CONTRACTS", "MLFLOW", "NATIVE", "OIP", "BadAnswerError", "Contract"]

CONTRACTS: Final = {"native": NATIVE, "oip": OIP, "mlflow": MLFLOW}

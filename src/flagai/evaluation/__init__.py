"""``flagai evaluate``: a model and labelled data in; the field's metrics, a confusion matrix and mistakes out."""

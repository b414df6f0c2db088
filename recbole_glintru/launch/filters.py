"""Check for filters that leave nothing of the data set."""

FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval")
BY_FEATURES = "filter_inter_by_user_or_item"  # on by default in RecBole, but without effect if there are no features


def on_request(config, dataset) -> None:
    """Check that each file of the data set has rows left.

    `additions.py` calls this after the rows are filtered, if the settings say `check_data: True`.

    Raises:
        ValueError: one has none; the message names the filters.
    """
    keys = FILTERS if dataset.feat_name_list == ["inter_feat"] else (*FILTERS, BY_FEATURES)
    said = [f"dataset={dataset.dataset_name!r}"]
    said += [f"{key}={config[key]!r}" for key in keys if config[key] not in (None, False, "[0,inf)")]
    for name in dataset.feat_name_list:
        if getattr(dataset, name).empty:
            suffix = name.partition("_")[0]
            raise ValueError(f"{', '.join(said)}: {dataset.dataset_name}.{suffix} has no rows left.")

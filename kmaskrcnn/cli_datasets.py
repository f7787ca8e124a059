"""The commands that look at datasets and write them: `inspect`, `advise-anchors`, `convert-data`, `split`."""

from kmaskrcnn.cli_output import counted, show, write_json


def add_dataset_commands(command):
    """Adds them to the parser; `command(run, help_text)` makes the parser of one."""
    inspect = command(run_inspect, "what a dataset holds, and every fault in it")
    inspect.add_argument("json_path", metavar="DATA", help="a json, or what the format has instead")
    inspect.add_argument("images", metavar="IMAGES", nargs="?")
    add_format(inspect)
    inspect.add_argument("--json", metavar="FILE", help="write the report there")
    inspect.add_argument("--recipe", metavar="RECIPE.yaml", help="also hold it against this model")
    inspect.add_argument(
        "--augmented",
        nargs=2,
        metavar=("RECIPE.yaml", "SHEET.png"),
        help="draw pictures as this recipe's augmentation changes them",
    )

    advise = command(run_advise_anchors, "which anchors meet a dataset's objects best")
    advise.add_argument("json_path", metavar="DATA", help="a json, or what the format has instead")
    advise.add_argument("images", metavar="IMAGES", nargs="?")
    add_format(advise)
    advise.add_argument(
        "--recipe", metavar="RECIPE.yaml", help="its sizes and anchors; by default COCO's"
    )
    advise.add_argument("--json", metavar="FILE", help="write the numbers there")

    convert = command(run_convert_data, "write a dataset of any known format as a COCO json")
    convert.add_argument("source", metavar="SOURCE", help="the file or folder of annotations")
    convert.add_argument("output", metavar="OUTPUT.json")
    convert.add_argument("--images", metavar="DIR", help="by default where the format has them")
    add_format(convert)
    convert.add_argument("--class-attribute", metavar="NAME", help="which attribute is VIA's class")
    convert.add_argument("--class-name", metavar="NAME", help="where masks alone name no class")
    convert.add_argument("--on-error", choices=("raise", "skip"), default="raise")

    split = command(run_split, "cut a COCO json into train.json and validation.json")
    split.add_argument("json_path", metavar="DATA.json")
    split.add_argument("--output", required=True, metavar="DIR")
    split.add_argument("--validation", type=float, default=0.2, help="share of the pictures: 0.2")
    split.add_argument("--seed", type=int, default=0)


def add_format(own):
    """Adds `--format`, of data, to a command's parser."""
    own.add_argument(
        "--format", default="auto", help="of the data, see docs/data.md; by default they tell"
    )


def run_inspect(options):
    """What a dataset holds, warnings for training, and every fault with its image id and annotation id."""
    from kmaskrcnn.data.check import inspect_dataset

    model = read_model(options.recipe) if options.recipe else None
    source = options.json_path, options.images
    report = inspect_dataset(*source, format=options.format, config=model)
    show(report.to_text())
    if options.json:
        write_json(options.json, report.to_dict())
    if options.augmented:
        draw_sheet(options)
    if report.faults:
        raise ValueError(f"{len(report.faults)} faults in {options.json_path}")


def run_advise_anchors(options):
    """How well anchors meet a dataset's objects, and lines for a recipe with better ones."""
    from kmaskrcnn.config import MaskRCNNConfig
    from kmaskrcnn.data.anchor_advice import advise_anchors
    from kmaskrcnn.data.formats import load_dataset

    model = read_model(options.recipe) if options.recipe else MaskRCNNConfig()
    source = options.json_path, options.images
    records = load_dataset(*source, format=options.format, on_error="skip")
    advice = advise_anchors(records, model)
    show(advice.to_text())
    if options.json:
        write_json(options.json, advice.to_dict())


def read_model(recipe):
    """The `model` part of a recipe's file."""
    from kmaskrcnn.config import load_yaml

    return load_yaml(recipe).model


def draw_sheet(options):
    """Draw a dataset's pictures as training with a recipe will see them."""
    from kmaskrcnn.config import load_yaml
    from kmaskrcnn.data.formats import load_dataset
    from kmaskrcnn.data.pictures import write_picture
    from kmaskrcnn.training.previews import draw_augmented

    recipe, sheet = options.augmented
    source = options.json_path, options.images
    records = load_dataset(*source, format=options.format, on_error="skip")
    write_picture(sheet, draw_augmented(load_yaml(recipe), records))
    show(f"{sheet} drawn")


def run_convert_data(options):
    """Write a dataset of any known format as a COCO json; docs/data.md has one example a format."""
    from kmaskrcnn.data.formats import convert_dataset

    named = {"class_attribute": options.class_attribute, "class_name": options.class_name}
    records = convert_dataset(
        options.source,
        options.output,
        options.images,
        format=options.format,
        reader_options={name: value for name, value in named.items() if value},
        on_error=options.on_error,
    )
    objects = sum(len(record.instances) for record in records.images)
    numbers = {
        "picture": len(records.images),
        "object": objects,
        "class": len(records.class_names),
    }
    found = ", ".join(counted(number, noun) for noun, number in numbers.items())
    faults = counted(len(records.faults), "faulty item")
    show(f"{options.output}: {found}, {faults} left out")


def run_split(options):
    """Cut a COCO json into two that share no picture, each with its share of every class."""
    from kmaskrcnn.data.splitting import split_dataset

    paths = split_dataset(options.json_path, options.output, options.validation, options.seed)
    show(", ".join(map(str, paths.values())))

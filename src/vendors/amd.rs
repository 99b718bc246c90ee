//! AMD's Key Distribution Service (publication 57230): authorities, the root's list, and chips' certificates.

use casemate_attestation::collateral::{Endorser, PackError};
use casemate_attestation::{ChipId, Product, TcbVersion};

use super::config::Services;
use super::http::Ask;
use super::owned::Owned;
use super::shelf::Kept;
use super::{FetchError, Fetched, Round, list_is_older};

/// Everything, in the order in which it is asked for.
pub(super) fn asks<'a>(services: &'a Services, owned: &Owned) -> Vec<Ask<'a>> {
    let mut all = Vec::new();
    for product in &owned.products {
        all.push(list(services, *product));
        all.push(chain(services, *product, "vcek"));
        if owned.providers.contains(product) {
            all.push(chain(services, *product, "vlek"));
        }
        let chips = owned.chips.iter().filter(|((of, ..), _)| of == product);
        all.extend(chips.map(|((_, id, _), tcb)| chip(services, *product, id, tcb)));
    }
    all
}

fn get(services: &Services, rest: String) -> Ask<'_> {
    Ask {
        service: &services.amd,
        rest,
        question: None,
    }
}

fn list(services: &Services, product: Product) -> Ask<'_> {
    get(services, format!("/vcek/v1/{product}/crl"))
}

fn chain<'a>(services: &'a Services, product: Product, key: &str) -> Ask<'a> {
    get(services, format!("/{key}/v1/{product}/cert_chain"))
}

/// A Turin's id has eight bytes there, and its firmware one component more.
fn chip<'a>(services: &'a Services, product: Product, id: &ChipId, tcb: &TcbVersion) -> Ask<'a> {
    let id = short_id(product, id);
    let fmc = match product {
        Product::Turin => format!("fmcSPL={:02}&", tcb.fmc),
        Product::Milan | Product::Genoa => String::new(),
    };
    let rest = format!(
        "/vcek/v1/{product}/{id}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode
    );
    get(services, rest)
}

fn short_id(product: Product, id: &ChipId) -> String {
    let length = if product == Product::Turin { 16 } else { 128 };
    id.to_string().chars().take(length).collect()
}

fn file(product: Product, rest: &str) -> String {
    format!("amd-{}-{rest}", product.as_str().to_ascii_lowercase())
}

pub(super) async fn fetch(round: &Round<'_>, owned: &Owned, all: &mut Vec<Fetched>) {
    for product in &owned.products {
        Section {
            round,
            product: *product,
        }
        .fetch(owned, all)
        .await;
    }
}

/// One product's documents.
struct Section<'a> {
    round: &'a Round<'a>,
    product: Product,
}

impl Section<'_> {
    async fn fetch(&self, owned: &Owned, all: &mut Vec<Fetched>) {
        let (product, services) = (self.product, self.round.services);
        let mut add = |item: String, file: &str, result| {
            all.push(Fetched {
                vendor: "amd",
                item,
                file: file.to_owned(),
                result,
            });
        };
        let name = file(product, "crl.der");
        add(
            format!("{product} revocation list"),
            &name,
            self.list(&name).await,
        );
        let name = file(product, "authorities.pem");
        let result = self
            .chain(chain(services, product, "vcek"), &name, false)
            .await;
        add(format!("{product} ASK"), &name, result);
        if owned.providers.contains(&product) {
            let name = file(product, "providers.pem");
            let result = self
                .chain(chain(services, product, "vlek"), &name, true)
                .await;
            add(format!("{product} ASVK"), &name, result);
        }
        for ((of, id, _), tcb) in &owned.chips {
            if *of == product {
                let [fmc, rest @ ..] = tcb.components().map(|(_, value)| value);
                let firmware = hex::encode([&[fmc][..], &rest].concat());
                let id_text: String = id.to_string().chars().take(32).collect();
                let name = file(product, &format!("vcek-{id_text}-{firmware}.der"));
                let result = self.chip(id, tcb, &name).await;
                add(format!("{product} chip {id}, {tcb}"), &name, result);
            }
        }
    }

    async fn list(&self, name: &str) -> Result<Kept, FetchError> {
        let round = self.round;
        let list = round
            .client
            .ask(&list(round.services, self.product))
            .await?
            .body;
        let collateral = round.right(&[&list])?;
        if !collateral
            .amd
            .iter()
            .any(|it| it.product == self.product && it.crl.0 == list)
        {
            return Err(FetchError::Other("revocation list"));
        }
        if round
            .shelf
            .held(name)?
            .is_some_and(|held| list_is_older(&list, &held))
        {
            return Err(FetchError::Older("revocation list"));
        }
        Ok(round.shelf.put(name, &list)?)
    }

    /// The list in the folder, which was judged when it came there and is judged again with what needs it.
    fn held_list(&self) -> Result<Vec<u8>, FetchError> {
        let list = self.round.shelf.held(&file(self.product, "crl.der"))?;
        list.ok_or(FetchError::Alone("the product's revocation list"))
    }

    async fn chain(
        &self,
        ask: Ask<'_>,
        name: &str,
        over_providers: bool,
    ) -> Result<Kept, FetchError> {
        let round = self.round;
        let chain = round.client.ask(&ask).await?.body;
        let list = self.held_list()?;
        let collateral = round
            .right(&[&list, &chain])
            .map_err(of_other("authority"))?;
        let mine = collateral.amd.iter().any(|section| {
            let authority = if over_providers {
                &section.asvk
            } else {
                &section.ask
            };
            section.product == self.product && authority.is_some()
        });
        let nothing_else = collateral.amd.iter().all(|section| {
            let foreign = if over_providers {
                &section.ask
            } else {
                &section.asvk
            };
            foreign.is_none() && section.endorsements.is_empty()
        });
        if !mine || !nothing_else {
            return Err(FetchError::Other("authority"));
        }
        Ok(round.shelf.put(name, &chain)?)
    }

    async fn chip(&self, id: &ChipId, tcb: &TcbVersion, name: &str) -> Result<Kept, FetchError> {
        let round = self.round;
        let ask = chip(round.services, self.product, id, tcb);
        let certificate = round.client.ask(&ask).await?.body;
        let list = self.held_list()?;
        let chain = round.shelf.held(&file(self.product, "authorities.pem"))?;
        let chain = chain.ok_or(FetchError::Alone("the product's authority"))?;
        let files: [&[u8]; 3] = [&list, &chain, &certificate];
        let collateral = round.right(&files).map_err(of_other("product"))?;
        let found = collateral.amd.iter().find(|it| it.product == self.product);
        match found.map(|section| section.endorsements.as_slice()) {
            Some([only]) if only.endorser != Endorser::Chip(*id) => Err(FetchError::Other("chip")),
            Some([only]) if only.tcb != *tcb => Err(FetchError::Other("firmware version")),
            Some([_]) => Ok(round.shelf.put(name, &certificate)?),
            _ => Err(FetchError::Other("kind of document")),
        }
    }
}

/// Documents of another product lack their list, which is not what is wrong with them.
fn of_other(what: &'static str) -> impl Fn(FetchError) -> FetchError {
    move |error| match error {
        FetchError::Pack(PackError::NoList(_) | PackError::Two(_)) => FetchError::Other(what),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(product: Product, chip_bytes: usize) -> String {
        let mut id = [0; 64];
        id[..chip_bytes].fill(0x0a);
        let tcb = TcbVersion {
            boot_loader: 4,
            tee: 0,
            snp: 27,
            microcode: 222,
            fmc: if product == Product::Turin { 1 } else { 0 },
        };
        let services = Services::default();
        let ask = chip(&services, product, &ChipId::from_bytes(id), &tcb);
        ask.service.at(&ask.rest)
    }

    #[test]
    fn a_chip_is_asked_for_as_its_product_is() {
        let expected = format!(
            "https://kdsintf.amd.com/vcek/v1/Milan/{}?blSPL=04&teeSPL=00&snpSPL=27&ucodeSPL=222",
            "0a".repeat(64)
        );
        assert_eq!(asked(Product::Milan, 64), expected);
        assert_eq!(
            asked(Product::Turin, 8),
            "https://kdsintf.amd.com/vcek/v1/Turin/0a0a0a0a0a0a0a0a?fmcSPL=01&blSPL=04&teeSPL=00&snpSPL=27&ucodeSPL=222"
        );
    }
}
